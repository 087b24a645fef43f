"""Model files and profiles: what there is, how it is used, where it comes from."""
