"""Files of other projects, one format each."""
