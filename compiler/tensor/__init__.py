"""The tensor IR: expressions, loop nests, how to simplify, check, print and interpret them."""
