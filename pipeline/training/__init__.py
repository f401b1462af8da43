"""What is needed to make weights, and never to use them."""
