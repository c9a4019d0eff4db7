"""What a trained model is asked: predictions, mistakes, figures."""
