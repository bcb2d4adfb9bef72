"""Which backbone: `petl.rank` measures candidates on a few of the user's images and says why one is first."""
