"""What users never run: the benchmark, the training of the embedded models, speed."""
