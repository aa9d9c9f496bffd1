"""What a run of the benchmark tells: numbers, tables and pictures."""
