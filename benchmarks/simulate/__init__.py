"""A model of the fleet by discrete events, fed with measured service times: what lies past this machine."""
