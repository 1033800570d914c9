"""Networks: registry, pretrained weights, layers, and what they count."""
