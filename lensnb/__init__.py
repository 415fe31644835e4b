"""lensnb: train, sample and honestly compare generators of gravitational-lens images."""
