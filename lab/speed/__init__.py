"""What things cost, measured side by side in one run: `python -m lab.speed.<name>`."""
