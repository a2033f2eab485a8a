from speculators.cli.hydra_app import main

if __name__ == "__main__":
    main()
