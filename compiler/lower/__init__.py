"""From a fused graph to a program and the loop nests of its kernels."""
