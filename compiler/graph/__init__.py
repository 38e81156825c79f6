"""The graph: typed nodes over symbolic shapes, how to build, check, print and interpret them."""
