"""Bad input, made and never stored: what strangers' files, recipes, weights and run folders can be like."""
