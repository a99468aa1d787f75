"""Data: sources become tables, tables are divided among devices, label columns become targets.

    Source --load_table--> Table --split_table--> Split (a Shard a device, held-out rows)
                             `----encode_labels--> targets of a task

Import from the modules themselves: `.sources`, `.partition`, `.labels`, `.table`, `.assets`.
"""
