"""imsctl: the command line of imsd."""
