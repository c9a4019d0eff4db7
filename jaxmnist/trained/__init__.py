"""What is done with a trained model: predictions, mistakes, figures."""
