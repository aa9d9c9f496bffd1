"""How well concepts are drawn, and what living together in a bank costs them."""
