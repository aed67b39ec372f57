"""Open answers compared in pairs, and the share that a judge prefers to a reference: AlpacaEval's win rate."""
