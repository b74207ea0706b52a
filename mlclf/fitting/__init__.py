"""The fit job, a module for each stage; `fit_job` is their order."""
