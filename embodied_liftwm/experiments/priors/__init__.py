"""Does a teacher help, and when does it harm?"""
