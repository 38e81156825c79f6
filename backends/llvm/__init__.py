"""Emission of LLVM IR from the tensor IR, for every CPU target."""
