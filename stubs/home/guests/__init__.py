"""How the link process looks after guests: their mruns, home's ends of streams, the terminal."""
