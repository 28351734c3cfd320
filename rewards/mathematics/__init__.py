"""Mathematics as answers write it: text becomes values, and values are compared, for the math reward."""
