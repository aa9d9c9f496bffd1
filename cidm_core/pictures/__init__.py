"""Everything the package draws, with Pillow alone: charts, layouts, grids and contact sheets."""
