"""The hub: observe, plan, publish. It never reaches into a site; it writes Assignments and reads what becomes of them."""
