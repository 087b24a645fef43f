"""The endpoints of own files: uploads, collections and searches."""
