"""The whole way in one step: `petl.start` ranks backbones, advises, compares methods, trains the winner, and writes its report."""
