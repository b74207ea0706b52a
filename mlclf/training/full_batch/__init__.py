"""Exact optima in float64 over all rows, and the search for the amount of L2.

chunks            rows in float64 as solvers take them, and the problems that are solved over them
l2_choice         the amount of L2 for each label, from its curve of held-out loss
objective         the objective that solvers minimize, with its gradient
preconditioner    an inverse Hessian as far as it is cheap to have, which gives a solver its first steps
lbfgs             full-batch solvers of the convex problem in float64
optimality        how near the optimum of the convex problem some weights are: norm of the full gradient
l2_search         the amount of L2 chosen by held-out rows, and the optimum at it
"""
