"""The commands of the command line, one file each; loaded by ``tilewright.cli``."""
