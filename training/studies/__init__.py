"""Small experiments on trained networks, each with a picture and a table: `python -m training.studies.path_ensemble`."""
