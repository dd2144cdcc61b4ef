from kdlora.cli import main

main()
