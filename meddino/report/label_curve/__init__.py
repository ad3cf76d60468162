"""How many labelled cases each method needs: scores by the number of cases trained on."""
