"""The whole way: `petl.start` ranks backbones, advises and compares methods, trains the winner, and writes its report."""
