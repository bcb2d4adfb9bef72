"""Where a delta's path may lead: a file here, a repository on the Hugging Face hub, a web server, a bucket. Each becomes a
whole file here, or one error.
"""
