"""NVIDIA GPUs. So far: ``simulator/``, which executes PTX without one."""
