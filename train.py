from speculators.compose import main

if __name__ == "__main__":
    main()
