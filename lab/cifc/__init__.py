"""The forgetting benchmark: concept-incremental customization (CIFC), systems side by side."""
