"""Exact optima in float64 over all rows, and the search for the amount of L2.

chunks            rows in float64 as the solvers take them, and the problems that are solved over them
l2_choice         the L2 of each label from its held-out loss, shrunk toward that of all labels
objective         the objective that solvers minimize, with its gradient
preconditioner    an approximate inverse Hessian, for the first steps of a solver
lbfgs             L-BFGS and OWL-QN in float64, for many problems side by side
optimality        gradient norm, duality gap and separation: how near the optimum some weights are
l2_search         the amount of L2 chosen by held-out rows, and the optimum at it
"""
