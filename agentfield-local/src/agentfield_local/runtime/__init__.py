"""Clock and background tasks: the parts of the asyncio runtime that sessions get injected or own.

`clock` lets tests move time; `tasks` holds the background tasks of one owner until it closes.
"""
