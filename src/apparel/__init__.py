"""The apparel retailer: lakelet's flagship pipeline, its data generator, and the commands to operate both."""
