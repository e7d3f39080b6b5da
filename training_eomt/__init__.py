"""How an EoMT model learns: data sets, augmentation, metrics, optimisation, annealing and the Trainer."""
