"""How far what a model sees and says has moved from a reference: histograms that merge, PSI and KS over them."""
