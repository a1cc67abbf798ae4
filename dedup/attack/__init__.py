"""The attack: how much a generative model reproduces of the images it was trained on (Carlini et al. 2023,
arXiv 2301.13188), before and after its training set was cleaned."""
