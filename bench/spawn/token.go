package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"carrel/internal/visitor"
)

// token signs a person in through the provider's pages and makes a token for them.
func token(ctx context.Context, base, person, password string) (string, error) {
	v, err := visitor.New(base, nil)
	if err != nil {
		return "", err
	}
	if err := v.SignIn(ctx, person, password); err != nil {
		return "", err
	}
	at, err := v.Send(ctx, http.MethodPost, base+"hub/api/users/"+person+"/tokens", nil)
	if err != nil {
		return "", err
	}
	var made struct{ Token string }
	if err := json.Unmarshal([]byte(at.Body), &made); err != nil || made.Token == "" {
		return "", fmt.Errorf("make a token: status %d: %.300s", at.Status, at.Body)
	}
	return made.Token, nil
}
