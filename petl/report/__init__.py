"""Everything as one page: `petl.report` measures and draws, and every number of the page is in a JSON file beside it."""
