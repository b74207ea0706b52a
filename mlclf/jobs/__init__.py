"""The public jobs: each is a function that does all of it, and one with `_steps` that says where it is meanwhile."""
