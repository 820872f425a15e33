"""A policy at work on a user's own model: the episode, its scores, its report."""
