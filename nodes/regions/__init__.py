"""Regions and the guider that draws by them."""
