"""Why a model said what it said: the contribution of each feature to a prediction."""
