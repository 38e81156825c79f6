"""What runs: the program IR, memory, calls, and how compiled models are kept."""
