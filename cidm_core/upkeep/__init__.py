"""Looking after a bank: versions, the trash, and changes to concepts that are learned."""
