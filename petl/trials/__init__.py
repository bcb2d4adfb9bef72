"""Which method wins on the user's images: `petl.compare` trains many settings for a short time and the best of them on."""
